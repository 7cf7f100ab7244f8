"""Ways in: files a user describes in YAML, the public field data sets, and the field generator."""
