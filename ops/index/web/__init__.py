"""What is answered over HTTP: pages for installers and for people, files, and changes."""
