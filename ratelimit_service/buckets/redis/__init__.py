"""The bucket store on Redis or Valkey: one server, a server behind Sentinels, or a cluster."""
