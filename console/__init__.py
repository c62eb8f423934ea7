"""What people see and say: the command line."""
