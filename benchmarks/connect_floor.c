/* What micro.py's connect_accept costs in the kernel alone: the system calls that no implementation can do without.
 *
 * usage: cc -O2 -o connect_floor benchmarks/connect_floor.c && taskset -c 0 ./connect_floor 20000
 *
 * Socket, connect, accept, send a byte, close, receive it, close, all blocking and in one thread. Prints connections
 * per second, the best of three repeats. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int count, char **arguments)
{
    int connections = count > 1 ? atoi(arguments[1]) : 20000;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (bind(listener, (void *)&address, length) || listen(listener, 128) ||
        getsockname(listener, (void *)&address, &length)) {
        perror("listen");
        return 1;
    }
    double best = 0;
    for (int repeat = 0; repeat < 3; repeat++) {
        double began = now();
        for (int index = 0; index < connections; index++) {
            int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            if (connect(client, (void *)&address, length)) {
                perror("connect");
                return 1;
            }
            int accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            char byte;
            if (send(accepted, "x", 1, 0) != 1) {
                perror("send");
                return 1;
            }
            close(accepted);
            if (recv(client, &byte, 1, 0) != 1) {
                perror("recv");
                return 1;
            }
            close(client);
        }
        double rate = connections / (now() - began);
        best = rate > best ? rate : best;
    }
    printf("%.0f\n", best);
}
