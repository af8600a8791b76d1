"""How a stranger's table is read: its rows, columns, labels and values."""
