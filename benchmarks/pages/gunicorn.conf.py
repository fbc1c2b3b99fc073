"""How gunicorn serves the Dash page: a worker per core, connections kept open."""

workers = 2
worker_class = "gthread"
control_socket_disable = True
