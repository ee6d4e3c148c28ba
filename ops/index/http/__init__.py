"""HTTP interface of the index: pages for installers and people, files, uploads and changes."""
