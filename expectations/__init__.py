"""What data must satisfy: Great Expectations suites as functions, and gates that turn their answers into verdicts."""
