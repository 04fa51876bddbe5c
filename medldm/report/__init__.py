"""What people open: pictures, plots and one self-contained HTML page."""
