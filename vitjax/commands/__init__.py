"""One module a command of the `vitjax` program, each with `main(arguments) -> exit code`."""
