"""What each command does; `cli` only names them and reads their options."""
