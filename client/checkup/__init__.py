"""What 'doctor' looks at, one file for each part of a site: machine, folder, boundary, way out."""
