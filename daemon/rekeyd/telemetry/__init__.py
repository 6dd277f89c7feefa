"""What rekeyd tells about itself."""
