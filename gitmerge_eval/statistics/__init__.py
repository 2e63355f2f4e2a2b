"""Statistics of a constituent that methods need; torch only, no input or output."""
