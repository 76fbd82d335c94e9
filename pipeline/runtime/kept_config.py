"""How `up` tells its children which files they run: those that it has checked, and kept (see `supervisor`)."""

ENV_FOLDER = "STREAMGAUGE_CONFIG_FOLDER"  # where the paths of tables in the config start
ENV_TABLES = "STREAMGAUGE_CONFIG_TABLES"  # where the tables are as they were checked, with the config
