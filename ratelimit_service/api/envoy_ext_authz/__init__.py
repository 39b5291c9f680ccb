"""`envoy.service.auth.v3.Authorization`: Check, which Envoy's ext_authz filter calls."""
