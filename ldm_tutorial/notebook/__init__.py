"""What notebooks use beside the course's own subject: figures, controls, the doctor."""
