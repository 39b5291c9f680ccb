"""Administration: the endpoint of KeyAdminService, without any transport."""
