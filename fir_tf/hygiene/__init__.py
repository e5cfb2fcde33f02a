"""What is wrong with a data set's files and labels, and a training copy of it."""
