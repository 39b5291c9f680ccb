"""`ratelimit.v1.KeyAdminService`: one file for each of its methods."""
