"""What a user can do, one function a verb."""
