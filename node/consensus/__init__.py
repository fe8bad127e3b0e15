"""Agreement on blocks: pure state machines that take inputs and return effects."""
