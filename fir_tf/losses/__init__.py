"""The objective: alpha * OC + beta * (OS | IS)."""
