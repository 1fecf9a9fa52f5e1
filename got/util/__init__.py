"""What every room of the package needs: files, images, command lines, precision, the hub. Knows nothing of the rest."""
