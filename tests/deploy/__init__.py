"""What deploys the service: the image, compose, systemd units and the Helm chart."""
