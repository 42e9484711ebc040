"""What a device draws: ports for power figures. Nothing is paid by them."""
