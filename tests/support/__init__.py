"""What tests share: servers, faults, data and readers."""
