"""The knowledge that `serve --demo` starts with; a package so that its file is installed with the others."""
