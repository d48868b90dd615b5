"""VMware hosts as sources: intact files over HTTPS, raw devices over SSH. Nothing here can write to a host."""
