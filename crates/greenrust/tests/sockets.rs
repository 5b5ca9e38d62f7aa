//! Sockets, servers, pools and signals, with real descriptors and the real clock.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::{Duration, Instant};

use greenrust::event::Event;
use greenrust::hub::Hub;
use greenrust::pool::{Group, Pool};
use greenrust::server::StreamServer;
use greenrust::signal::{SIGUSR1, Signal};
use greenrust::socket::{TcpListener, TcpStream, UnixStream, write_all_vectored};
use greenrust::{GreenletError, TimedOut, Timeout, joinall, sleep, spawn, yield_now};

const MOMENT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(60);

fn in_thread(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(test).join().unwrap();
}

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = spawn(move || TcpStream::connect(address).unwrap());
    let server = listener.accept().unwrap();
    (server, client.get().unwrap())
}

#[test]
fn more_bytes_than_the_kernel_buffers_pass_through_a_stream() {
    in_thread(|| {
        let (mut receiver, mut sender) = connected();
        let data: Vec<u8> = (0..8 << 20).map(|number| (number % 251) as u8).collect();
        let expected = data.clone();
        let writer = spawn(move || sender.write_all(&data).unwrap());
        let mut received = Vec::new();
        receiver.read_to_end(&mut received).unwrap();
        writer.get().unwrap();
        assert!(received == expected);
    });
}

#[test]
fn two_parts_are_written_whole_and_in_order() {
    in_thread(|| {
        let (mut one, mut two) = UnixStream::pair().unwrap();
        let (head, body) = (vec![b'h'; 1 << 20], vec![b'b'; 3 << 20]);
        let writer = spawn(move || {
            write_all_vectored(&mut one, &head, &body).unwrap();
            write_all_vectored(&mut one, b"", b"").unwrap();
        });
        let mut received = Vec::new();
        two.read_to_end(&mut received).unwrap();
        writer.get().unwrap();
        assert!(received[..1 << 20].iter().all(|&byte| byte == b'h'));
        assert!(received.len() == 4 << 20 && received[1 << 20..].iter().all(|&byte| byte == b'b'));
    });
}

#[test]
fn many_greenlets_wait_for_their_sockets_at_the_same_time() {
    in_thread(|| {
        let server = StreamServer::new(TcpListener::bind("127.0.0.1:0").unwrap(), |mut stream| {
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() == 1 {
                sleep(Duration::from_millis(100));
                stream.write_all(&byte).unwrap();
            }
        })
        .unwrap();
        server.start();
        let address = server.local_addr();
        let start = Instant::now();
        let clients: Vec<_> = (0..50)
            .map(|number| {
                spawn(move || {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.write_all(&[number]).unwrap();
                    let mut answer = [0];
                    stream.read_exact(&mut answer).unwrap();
                    answer[0]
                })
            })
            .collect();
        joinall(&clients);
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        let answers: Vec<_> = clients.into_iter().map(|client| client.get().unwrap()).collect();
        assert_eq!(answers, (0..50).collect::<Vec<u8>>());
        server.stop(LONG);
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_kill_or_a_timeout_of_a_read_leaves_the_stream_usable() {
    in_thread(|| {
        let (server, client) = connected();
        let (server, mut client) = (Rc::new(server), client);
        let outcome = Timeout::run(MOMENT, || (&*server).read(&mut [0; 8]).map(drop).unwrap());
        assert_eq!(outcome, Err(TimedOut));
        let reader = {
            let server = server.clone();
            spawn(move || (&*server).read(&mut [0; 8]).map(drop))
        };
        yield_now();
        reader.kill();
        assert!(matches!(reader.get(), Err(GreenletError::Killed)));
        server.set_read_timeout(Some(MOMENT));
        assert_eq!((&*server).read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::TimedOut);
        client.write_all(b"still here").unwrap();
        let mut text = [0; 10];
        (&*server).read_exact(&mut text).unwrap();
        assert_eq!(&text, b"still here");
    });
}

#[test]
fn a_kill_of_an_accept_or_a_write_leaves_the_socket_usable() {
    in_thread(|| {
        let listener = Rc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let acceptor = {
            let listener = listener.clone();
            spawn(move || listener.accept().map(drop))
        };
        yield_now();
        acceptor.kill();
        let address = listener.local_addr().unwrap();
        let client = spawn(move || TcpStream::connect(address).unwrap());
        let server = Rc::new(listener.accept().unwrap());
        let writer = {
            let server = server.clone();
            spawn(move || (&*server).write_all(&vec![b'x'; 64 << 20]))
        };
        let mut client = client.get().unwrap();
        yield_now();
        writer.kill();
        server.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert!(!received.is_empty() && received.len() < 64 << 20);
    });
}

#[test]
fn the_end_of_a_stream_and_a_refused_connection_are_reported() {
    in_thread(|| {
        let (mut server, client) = connected();
        drop(client);
        assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let none: &[std::net::SocketAddr] = &[];
        assert_eq!(TcpStream::connect(none).unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn data_that_comes_with_the_end_is_read_before_it() {
    in_thread(|| {
        let (mut server, mut client) = connected();
        let reader = spawn(move || {
            let mut text = String::new();
            server.read_to_string(&mut text).unwrap();
            text
        });
        yield_now();
        for piece in ["one ", "two ", "three"] {
            client.write_all(piece.as_bytes()).unwrap();
            sleep(Duration::from_millis(1));
        }
        drop(client);
        assert_eq!(reader.get().unwrap(), "one two three");
    });
}

#[test]
fn a_server_with_a_pool_handles_as_many_connections_as_the_pool_has_room_for() {
    in_thread(|| {
        let most = Rc::new(Cell::new(0));
        let now = Rc::new(Cell::new(0));
        let server = {
            let (most, now) = (most.clone(), now.clone());
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            StreamServer::with_pool(listener, Pool::new(2), move |stream| {
                now.set(now.get() + 1);
                most.set(most.get().max(now.get()));
                sleep(MOMENT);
                now.set(now.get() - 1);
                drop(stream);
            })
            .unwrap()
        };
        server.start();
        let address = server.local_addr();
        let clients: Vec<_> =
            (0..6).map(|_| spawn(move || TcpStream::connect(address).unwrap().read(&mut [0]).unwrap())).collect();
        joinall(&clients);
        assert_eq!(most.get(), 2);
        server.stop(LONG);
    });
}

#[test]
fn a_server_kills_what_does_not_end_within_its_grace() {
    in_thread(|| {
        let server = StreamServer::new(TcpListener::bind("127.0.0.1:0").unwrap(), |mut stream| {
            let _ = stream.read(&mut [0]);
        })
        .unwrap();
        server.start();
        let mut client = TcpStream::connect(server.local_addr()).unwrap();
        while server.connections() == 0 {
            yield_now();
        }
        server.stop(MOMENT);
        assert_eq!(server.connections(), 0);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn a_pool_runs_so_many_at_a_time_and_in_order() {
    in_thread(|| {
        Hub::with_mock_clock();
        let log = Rc::new(RefCell::new(Vec::new()));
        let pool = Pool::new(2);
        let results = {
            let log = log.clone();
            pool.map(1..=4, move |number| {
                log.borrow_mut().push(format!("+{number}"));
                sleep(number * MOMENT);
                log.borrow_mut().push(format!("-{number}"));
                number * 10
            })
        };
        assert_eq!(results.unwrap(), [10, 20, 30, 40]);
        assert_eq!(log.borrow().join(" "), "+1 +2 -1 +3 -2 +4 -3 -4");
        assert_eq!((pool.free(), pool.group().len()), (2, 0));
        assert!(pool.try_spawn(|| sleep(LONG)).is_ok());
        assert!(pool.try_spawn(|| sleep(LONG)).is_ok());
        assert!(pool.try_spawn(|| ()).is_err());
        assert_eq!(Timeout::run(MOMENT, || drop(pool.spawn(|| ()))), Err(TimedOut));
        pool.kill();
        assert_eq!(pool.free(), 2);
    });
}

#[test]
fn a_pools_iterators_give_results_in_either_order_and_each_failure_in_its_place() {
    in_thread(|| {
        Hub::with_mock_clock();
        let pool = Pool::new(3);
        let work = |number: u32| {
            sleep((4 - number) * MOMENT);
            assert_ne!(number, 2, "on purpose");
            number
        };
        let show = |outcome: Result<u32, GreenletError>| outcome.map_or(0, |number| number);
        let ordered: Vec<_> = pool.imap(1..=3, work).map(show).collect();
        assert_eq!(ordered, [1, 0, 3]);
        let unordered: Vec<_> = pool.imap_unordered(1..=3, work).map(show).collect();
        assert_eq!(unordered, [3, 0, 1]);
        // Who stops asking stops the items.
        assert_eq!(pool.imap(0.., |number| number).next().unwrap().unwrap(), 0);
        pool.join();
    });
}

#[test]
fn a_group_is_joined_and_killed_together() {
    in_thread(|| {
        Hub::with_mock_clock();
        let group = Group::new();
        let event = Rc::new(Event::new());
        for _ in 0..3 {
            let event = event.clone();
            group.spawn(move || event.wait());
        }
        assert_eq!(group.join_timeout(MOMENT), Err(TimedOut));
        event.set();
        group.join();
        assert!(group.is_empty());
        let unstarted = group.spawn(|| unreachable!("killed before it starts"));
        group.kill();
        assert!(unstarted.is_ended() && group.is_empty());
    });
}

#[test]
fn a_signal_wakes_the_greenlet_that_waits_for_it() {
    in_thread(|| {
        let mut signal = Signal::new(SIGUSR1).unwrap();
        let waiter = spawn(move || signal.wait());
        yield_now();
        signal_hook::low_level::raise(SIGUSR1).unwrap();
        waiter.get().unwrap().unwrap();
    });
}
