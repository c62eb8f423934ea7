"""What there is: values, states, events, errors and tables. No I/O and no clock."""
