"""Dashboards as code: what they show is here, what Grafana reads is generated into `dashboards/`."""
