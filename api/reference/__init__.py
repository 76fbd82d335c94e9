"""The reference of the HTTP API: the OpenAPI document of an installation, its pages, and what each code means."""
