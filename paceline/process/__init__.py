"""What every process of ours needs: paths, logs, a watch on its parent, care for its children."""
