"""Lightning modules and what they need to resume exactly. Importing this package does not import Lightning."""
