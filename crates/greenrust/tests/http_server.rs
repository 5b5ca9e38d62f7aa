//! The HTTP server over real sockets, byte for byte.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use greenrust::event::Event;
use greenrust::http_server::{HttpServer, Limits, Request, Response};
use greenrust::socket::{TcpListener, TcpStream};
use greenrust::{Timeout, sleep, spawn, yield_now};

const LONG: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(100);

fn in_thread(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(|| {
        Timeout::run(Duration::from_secs(20), test).expect("a test of the server takes no 20 seconds");
    })
    .join()
    .unwrap();
}

fn serve(limits: Limits, handler: impl Fn(&mut Request<'_>) -> Response + 'static) -> HttpServer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = HttpServer::with_limits(listener, limits, None, handler).unwrap();
    server.start();
    server
}

fn echo(request: &mut Request<'_>) -> Response {
    match request.read_body() {
        Ok(body) => {
            let text = format!("{} {} {}", request.method(), request.path(), String::from_utf8_lossy(&body));
            Response::new(200).body(text)
        }
        Err(error) => Response::new(500).body(error.to_string()),
    }
}

/// Reads one response: its head, and as much body as `Content-Length` says.
fn response(stream: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length =
        head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn exchange(server: &HttpServer, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.local_addr()).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

#[test]
fn requests_follow_each_other_on_one_connection_also_when_they_come_at_once() {
    in_thread(|| {
        let server = serve(Limits::default(), echo);
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        stream.write_all(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let (head, body) = response(&mut stream);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.contains("Connection"), "{head}");
        assert_eq!(body, "GET /a ");
        stream
            .write_all(
                b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbodyPOST /c HTTP/1.1\r\nHost: x\r\n\
                  Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n4\r\n two\r\n0\r\n\r\nGET /d HTTP/1.1\r\nHost: x\r\n\r\n",
            )
            .unwrap();
        let bodies = [(); 3].map(|()| response(&mut stream).1);
        assert_eq!(bodies, ["POST /b body", "POST /c one two", "GET /d "]);
        assert_eq!(server.connections(), 1);
    });
}

#[test]
fn a_path_in_japanese_is_decoded() {
    in_thread(|| {
        let server = serve(Limits::default(), echo);
        let request = b"GET /%E4%B8%96%E7%95%8C%2f%zz?q=%41 HTTP/1.0\r\n\r\n";
        let answer = exchange(&server, request);
        assert!(answer.ends_with("\r\n\r\nGET /\u{4e16}\u{754c}/%zz "), "{answer}");
    });
}

#[test]
fn the_connection_ends_as_versions_and_fields_say() {
    in_thread(|| {
        let server = serve(Limits::default(), |request| {
            let response = Response::new(200);
            if request.path() == "/close" { response.header("Connection", "close") } else { response }
        });
        // Each of these reads to the end of the stream: the server must close.
        for (request, field) in [
            (&b"GET / HTTP/1.0\r\n\r\n"[..], "Connection: close"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "Connection: close"),
            (b"GET /close HTTP/1.1\r\nHost: x\r\n\r\n", "Connection: close"),
        ] {
            let answer = exchange(&server, request);
            assert_eq!(answer.matches(field).count(), 1, "{answer}");
        }
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        for _ in 0..2 {
            stream.write_all(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
            assert!(response(&mut stream).0.contains("Connection: keep-alive\r\n"));
        }
    });
}

#[test]
fn a_body_of_unknown_length_is_chunked_or_ends_with_the_connection() {
    in_thread(|| {
        let server = serve(Limits::default(), |_| {
            Response::new(200).pieces(["one", "", "twelve bytes"].into_iter().map(Vec::from))
        });
        let answer = exchange(&server, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(answer.contains("Transfer-Encoding: chunked\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n3\r\none\r\nc\r\ntwelve bytes\r\n0\r\n\r\n"), "{answer}");
        let answer = exchange(&server, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert!(answer.ends_with("\r\n\r\nonetwelve bytes"), "{answer}");
        let answer = exchange(&server, b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    });
}

#[test]
fn an_answer_without_a_body_has_none() {
    in_thread(|| {
        let server = serve(Limits::default(), |request| {
            let status = if request.path() == "/204" { 204 } else { 200 };
            Response::new(status).body("some text")
        });
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        stream
            .write_all(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET /204 HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.0\r\n\r\n")
            .unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        assert_eq!(answers.matches("some text").count(), 1, "{answers}");
        assert_eq!(answers.matches("Content-Length: 9\r\n").count(), 2, "HEAD and GET: {answers}");
    });
}

#[test]
fn what_is_ambiguous_or_too_large_is_refused_and_the_connection_closed() {
    in_thread(|| {
        let mut limits = Limits { body_bytes: Some(10), ..Limits::default() };
        limits.head.header_bytes = 300;
        let server = serve(limits, echo);
        let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(400));
        for (request, status) in [
            (&b"nonsense\r\n\r\n"[..], "400"),
            (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx", "400"),
            (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n", "413"),
            (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n", "413"),
            (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400"),
            (long.as_bytes(), "431"),
        ] {
            let answer = exchange(&server, request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
            assert!(answer.contains("Connection: close\r\n"), "{answer}");
        }
    });
}

#[test]
fn a_handler_that_panics_or_answers_badly_gives_500_and_others_go_on() {
    in_thread(|| {
        let server = serve(Limits::default(), |request| match &*request.path() {
            "/panic" => panic!("on purpose"),
            "/split" => Response::new(200).header("Location", "/\r\nSet-Cookie: a=b"),
            _ => Response::new(200).body("fine"),
        });
        for path in ["/panic", "/split"] {
            let answer = exchange(&server, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
            assert!(answer.starts_with("HTTP/1.1 500 ") && !answer.contains("Set-Cookie"), "{answer}");
        }
        assert!(exchange(&server, b"GET / HTTP/1.0\r\n\r\n").ends_with("fine"));
    });
}

#[test]
fn a_client_that_expects_it_is_told_to_continue_when_the_body_is_wanted() {
    in_thread(|| {
        let server =
            serve(
                Limits::default(),
                |request| {
                    if request.path() == "/unwanted" { Response::new(417) } else { echo(request) }
                },
            );
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        let head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        stream.write_all(head).unwrap();
        assert_eq!(response(&mut stream).0, "HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"ok").unwrap();
        assert_eq!(response(&mut stream).1, "POST / ok");
        stream
            .write_all(b"POST /unwanted HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            .unwrap();
        let (head, _) = response(&mut stream);
        assert!(head.starts_with("HTTP/1.1 417 ") && head.contains("Connection: close\r\n"), "{head}");
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn a_body_that_the_handler_leaves_does_not_become_a_request() {
    in_thread(|| {
        let server = serve(Limits::default(), |request| Response::new(200).body(format!("done {}", request.path())));
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        let inner = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
        let outer = format!("POST /outer HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", inner.len());
        stream.write_all(format!("{outer}{inner}GET /next HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        assert!(answers.contains("done /outer") && answers.ends_with("done /next"), "{answers}");
        assert!(!answers.contains("smuggled"), "{answers}");
        // A large rest closes the connection.
        let mut large = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".to_vec();
        large.extend_from_slice(&[b'x'; 1000]);
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        stream.write_all(&large).unwrap();
        let (head, body) = response(&mut stream);
        assert!(head.contains("Connection: close\r\n") && body == "done /", "{head}");
    });
}

#[test]
fn slow_clients_are_given_up_and_delay_nobody() {
    in_thread(|| {
        let limits =
            Limits { head_timeout: 2 * MOMENT, keep_alive_timeout: MOMENT, body_timeout: MOMENT, ..Limits::default() };
        let server = serve(limits, echo);
        // An idle one is closed without a word, one that stops within its head is told.
        assert_eq!(exchange(&server, b""), "");
        assert!(exchange(&server, b"GET / HT").starts_with("HTTP/1.1 408 "));
        // Drip by drip is no way around the limit for a head.
        let mut dripping = TcpStream::connect(server.local_addr()).unwrap();
        let start = Instant::now();
        let outcome = loop {
            if let Err(error) = dripping.write_all(b"G") {
                break error.kind();
            }
            assert!(start.elapsed() < Duration::from_secs(10), "never given up");
            sleep(MOMENT / 3);
            if server.connections() == 0 {
                break ErrorKind::BrokenPipe;
            }
        };
        assert!(matches!(outcome, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{outcome}");
        let answer = exchange(&server, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nshort");
        assert!(answer.starts_with("HTTP/1.1 500 ") && answer.ends_with("timed out"), "{answer}");
    });
}

#[test]
fn a_stop_lets_requests_that_have_begun_be_answered_and_closes_idle_connections() {
    in_thread(|| {
        let began = Rc::new(Event::new());
        let go_on = Rc::new(Event::new());
        let server = {
            let (began, go_on) = (began.clone(), go_on.clone());
            Rc::new(serve(Limits::default(), move |_| {
                began.set();
                go_on.wait();
                Response::new(200).body("answered")
            }))
        };
        let mut idle = TcpStream::connect(server.local_addr()).unwrap();
        let mut busy = TcpStream::connect(server.local_addr()).unwrap();
        busy.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        began.wait();
        let log = Rc::new(RefCell::new(Vec::new()));
        let stopper = {
            let (server, log) = (server.clone(), log.clone());
            spawn(move || {
                server.stop(LONG);
                log.borrow_mut().push("stopped");
            })
        };
        assert_eq!(idle.read(&mut [0]).unwrap(), 0);
        yield_now();
        assert!(log.borrow().is_empty());
        go_on.set();
        let (head, body) = response(&mut busy);
        assert_eq!(body, "answered");
        assert!(head.contains("Connection: close\r\n"), "{head}");
        stopper.join();
        assert_eq!((log.borrow().len(), server.connections()), (1, 0));
        assert_eq!(TcpStream::connect(server.local_addr()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}
