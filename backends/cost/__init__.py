"""What one op costs: chip roofline, core model, tile model and communication protocol behind one interface."""
