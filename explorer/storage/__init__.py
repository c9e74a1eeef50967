"""What is kept on disk and in databases, safe against being killed at any moment."""
