"""What instruments measure of an image: linear operators with exact adjoints, made of torch."""
