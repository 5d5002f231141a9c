"""What is shown: text, tables, drawings, plots and progress."""
