"""What vitjax costs, measured; each module is a program that prints a table and writes JSON to `results/`."""
