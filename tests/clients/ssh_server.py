"""An SSH server of paramiko, with threads: a command that reads a byte ends when three have, and prints its own text.

Run by a plain Python: `ssh_server.py PORT`. It takes any password.
"""
import socket
import sys
import threading

import paramiko

key = paramiko.ECDSAKey.generate()
barrier = threading.Barrier(3)


class Session(paramiko.ServerInterface):
    def check_auth_password(self, username, password):
        return paramiko.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username):
        return "password"

    def check_channel_request(self, kind, channel_id):
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel, command):
        threading.Thread(target=self.execute, args=(channel, command), daemon=True).start()
        return True

    def execute(self, channel, command):
        # The client says a word once it knows that the command was taken.
        channel.recv(1)
        try:
            barrier.wait(20)
        except threading.BrokenBarrierError:
            channel.send_exit_status(1)
        else:
            channel.sendall(command)
            channel.send_exit_status(0)
        channel.close()


def serve(connection):
    transport = paramiko.Transport(connection)
    transport.add_server_key(key)
    try:
        transport.start_server(server=Session())
    except (EOFError, paramiko.SSHException):
        # A probe that has only connected.
        transport.close()


with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()
