//! Look-ups against a name server in another thread, whose answers each test decides.

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;

/// What a server says to a question: any number of datagrams.
type Script = dyn Fn(&Message) -> Vec<Vec<u8>> + Send + Sync;

/// A name server on the loopback interface, over UDP and TCP, until it is dropped.
struct FakeServer {
    address: SocketAddr,
    questions: Arc<Mutex<Vec<String>>>,
}

impl FakeServer {
    fn new(script: impl Fn(&Message) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let script: Arc<Script> = Arc::new(script);
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            // The same port may be taken for UDP.
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()) {
                break (listener, socket);
            }
        };
        let address = socket.local_addr().unwrap();
        let questions: Arc<Mutex<Vec<String>>> = Arc::default();
        let (seen, said) = (questions.clone(), script.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                if length == 0 {
                    return;
                }
                for reply in said(&note(&seen, &buffer[..length], "")) {
                    socket.send_to(&reply, client).unwrap();
                }
            }
        });
        let seen = questions.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                if stream.read_exact(&mut length).is_err() {
                    return;
                }
                let mut bytes = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut bytes).unwrap();
                for reply in script(&note(&seen, &bytes, "tcp ")) {
                    // In pieces, as the network may bring it.
                    let mut framed = (reply.len() as u16).to_be_bytes().to_vec();
                    framed.extend(reply);
                    for piece in framed.chunks(framed.len() / 3 + 1) {
                        stream.write_all(piece).unwrap();
                        stream.flush().unwrap();
                    }
                }
            }
        });
        Self { address, questions }
    }

    fn resolver(&self) -> Resolver {
        resolver(&[self.address], |_| {})
    }

    fn questions(&self) -> Vec<String> {
        self.questions.lock().unwrap().clone()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        // Ends the threads.
        let _ = UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"", self.address);
        let _ = std::net::TcpStream::connect(self.address);
    }
}

fn note(seen: &Mutex<Vec<String>>, bytes: &[u8], prefix: &str) -> Message {
    let message = Message::from_vec(bytes).unwrap();
    let query = &message.queries[0];
    let name = query.name().to_ascii();
    seen.lock().unwrap().push(format!("{prefix}{} {}", query.query_type(), name.trim_end_matches('.')));
    message
}

/// A resolver whose files are not there, but for what `change` says. It waits for a server as if for ever: the machine may
/// be busy.
fn resolver(servers: &[SocketAddr], change: impl FnOnce(&mut Options)) -> Resolver {
    let nowhere = PathBuf::from("/nonexistent");
    let mut options = Options {
        servers: Some(servers.iter().copied().map(Server::at).collect()),
        timeout: Some(Duration::from_secs(3600)),
        hosts: nowhere.clone(),
        resolv_conf: nowhere.clone(),
        nsswitch_conf: nowhere.clone(),
        gai_conf: nowhere,
        ..Options::default()
    };
    change(&mut options);
    Resolver::with_options(options)
}

fn name(text: &str) -> Name {
    Name::from_labels(text.split('.').map(str::as_bytes)).unwrap()
}

/// The empty answer to a question.
fn reply(question: &Message) -> Message {
    let mut reply = question.clone();
    reply.metadata.message_type = MessageType::Response;
    reply.edns = None;
    reply
}

fn asks_for(question: &Message) -> (String, RecordType) {
    let query = &question.queries[0];
    (query.name().to_ascii().trim_end_matches('.').to_owned(), query.query_type())
}

/// An answer with one address: 192.0.2.1 or 2001:db8::1, with a time to live of 60 s.
fn with_address(question: &Message) -> Message {
    let mut reply = reply(question);
    let owner = question.queries[0].name().clone();
    let data = match asks_for(question).1 {
        RecordType::A => RData::A(A::new(192, 0, 2, 1)),
        RecordType::AAAA => RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        other => panic!("{other}"),
    };
    reply.add_answer(Record::from_rdata(owner, 60, data));
    reply
}

fn bytes(message: &Message) -> Vec<Vec<u8>> {
    vec![message.to_vec().unwrap()]
}

fn v4() -> Vec<IpAddr> {
    vec!["192.0.2.1".parse().unwrap()]
}

fn lookup_v4(resolver: &Resolver, host: &str) -> Result<Vec<IpAddr>, LookupError> {
    resolver.lookup_host(host, Family::V4).map(|host| host.addresses)
}

#[test]
fn addresses_of_both_kinds_are_asked_for_at_the_same_time() {
    let waiting = Mutex::new(Vec::new());
    let server = FakeServer::new(move |question| {
        let mut waiting = waiting.lock().unwrap();
        waiting.extend(bytes(&with_address(question)));
        // Nothing is said before both have come.
        if waiting.len() == 2 { std::mem::take(&mut *waiting) } else { Vec::new() }
    });
    let mut found = server.resolver().lookup("a.test").unwrap();
    found.sort();
    assert_eq!(found, ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap()));
}

#[test]
fn greenlets_that_ask_the_same_share_one_question_and_the_answer_is_kept() {
    let server = FakeServer::new(|question| bytes(&with_address(question)));
    let resolver = server.resolver();
    let greenlets: Vec<_> = (0..20)
        .map(|number| {
            let resolver = resolver.clone();
            let host = if number % 2 == 0 { "a.test" } else { "A.TEST" };
            crate::spawn(move || resolver.lookup_host(host, Family::V4).unwrap().name == host)
        })
        .collect();
    assert!(greenlets.into_iter().all(|greenlet| greenlet.get().unwrap()), "each in its own letters");
    assert_eq!(lookup_v4(&resolver, "a.test"), Ok(v4()));
    assert_eq!(server.questions(), ["A a.test"]);
    resolver.forget();
    assert_eq!(lookup_v4(&resolver, "a.test"), Ok(v4()));
    assert_eq!(server.questions().len(), 2);
}

#[test]
fn the_search_list_is_tried_in_order_and_what_was_said_of_the_name_itself_counts() {
    let server = FakeServer::new(|question| match asks_for(question).0.as_str() {
        "a.two.test" => bytes(&with_address(question)),
        "known.one.test" => bytes(&reply(question)),
        _ => {
            let mut reply = reply(question);
            reply.metadata.response_code = ResponseCode::NXDomain;
            bytes(&reply)
        }
    });
    let folder = TemporaryFolder::new();
    folder.write("resolv.conf", "search one.test two.test");
    let resolver = resolver(&[server.address], |options| options.resolv_conf = folder.path("resolv.conf"));
    let host = resolver.lookup_host("a", Family::V4).unwrap();
    assert_eq!((host.name.as_str(), host.addresses), ("a.two.test", v4()));
    assert_eq!(lookup_v4(&resolver, "known"), Err(LookupError::NoData));
    assert_eq!(lookup_v4(&resolver, "x.y"), Err(LookupError::NotFound));
    assert_eq!(lookup_v4(&resolver, "a."), Err(LookupError::NotFound));
    assert_eq!(
        server.questions().join(" ").replace("A ", ""),
        "a.one.test a.two.test known.one.test known.two.test known x.y x.y.one.test x.y.two.test a"
    );
    // The file changes: so do the domains.
    folder.write("resolv.conf", "search two.test");
    assert_eq!(lookup_v4(&resolver, "a"), Ok(v4()));
    assert_eq!(server.questions().last().unwrap(), "A a.two.test");
}

#[test]
fn replies_that_belong_to_no_question_are_passed_over() {
    let server = FakeServer::new(|question| {
        let mut forged = with_address(question);
        forged.answers[0].data = RData::A(A::new(6, 6, 6, 6));
        let mut wrong_id = forged.clone();
        wrong_id.metadata.id = wrong_id.metadata.id.wrapping_add(1);
        let mut wrong_name = forged.clone();
        wrong_name.queries[0].set_name(name("b.test"));
        let mut wrong_kind = forged.clone();
        wrong_kind.queries[0].set_query_type(RecordType::AAAA);
        let mut is_question = forged;
        is_question.metadata.message_type = MessageType::Query;
        let mut all = vec![Vec::new(), b"garbage".to_vec()];
        for message in [wrong_id, wrong_name, wrong_kind, is_question, with_address(question)] {
            all.extend(bytes(&message));
        }
        all
    });
    assert_eq!(lookup_v4(&server.resolver(), "a.test"), Ok(v4()));
}

#[test]
fn another_sender_than_the_server_is_not_heard() {
    let forger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (sender, receiver) = std::sync::mpsc::channel::<(SocketAddr, Vec<u8>)>();
    let server_socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server_socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        let (length, client) = server_socket.recv_from(&mut buffer).unwrap();
        let question = Message::from_vec(&buffer[..length]).unwrap();
        let mut forged = with_address(&question);
        forged.answers[0].data = RData::A(A::new(6, 6, 6, 6));
        // The right id and question, from another port: it is there before the true one is sent.
        sender.send((client, forged.to_vec().unwrap())).unwrap();
        let _ = server_socket.recv_from(&mut buffer).unwrap();
        server_socket.send_to(&with_address(&question).to_vec().unwrap(), client).unwrap();
    });
    std::thread::spawn(move || {
        let (client, forged) = receiver.recv().unwrap();
        forger.send_to(&forged, client).unwrap();
        forger.send_to(b"now", address).unwrap();
    });
    assert_eq!(lookup_v4(&resolver(&[address], |_| {}), "a.test"), Ok(v4()));
}

#[test]
fn a_truncated_answer_is_fetched_over_tcp() {
    let is_first = std::sync::atomic::AtomicBool::new(true);
    let server = FakeServer::new(move |question| {
        let mut reply = with_address(question);
        reply.metadata.truncation = is_first.swap(false, Ordering::Relaxed);
        if !reply.metadata.truncation {
            let owner = reply.answers[0].name.clone();
            for number in 0..2000_u16 {
                let [high, low] = number.to_be_bytes();
                reply.add_answer(Record::from_rdata(owner.clone(), 60, RData::A(A::new(198, 51, high, low))));
            }
        }
        bytes(&reply)
    });
    let resolver = server.resolver();
    assert_eq!(lookup_v4(&resolver, "a.test").unwrap().len(), 2001);
    assert_eq!(server.questions(), ["A a.test", "tcp A a.test"]);
    assert_eq!(lookup_v4(&resolver, "a.test").unwrap().len(), 2001);
    resolver.close();
    assert_eq!(resolver.load(), (0, 0));
}

#[test]
fn a_server_that_knows_no_extensions_is_asked_without() {
    let server = FakeServer::new(|question| {
        if question.edns.is_none() {
            return bytes(&with_address(question));
        }
        let mut reply = reply(question);
        reply.metadata.response_code = ResponseCode::FormErr;
        bytes(&reply)
    });
    assert_eq!(lookup_v4(&server.resolver(), "a.test"), Ok(v4()));
    assert_eq!(server.questions().len(), 2);
}

#[test]
fn the_next_server_is_asked_when_one_refuses_or_is_not_there() {
    let refusing = FakeServer::new(|question| {
        let mut reply = reply(question);
        reply.metadata.response_code = ResponseCode::ServFail;
        bytes(&reply)
    });
    let answering = FakeServer::new(|question| bytes(&with_address(question)));
    // At an address where no other test binds a port.
    let closed = UdpSocket::bind("127.7.7.7:0").unwrap().local_addr().unwrap();
    let all = resolver(&[closed, refusing.address, answering.address], |_| {});
    assert_eq!(lookup_v4(&all, "a.test"), Ok(v4()));
    assert_eq!(refusing.questions().len(), 1);
    let failing = resolver(&[closed, refusing.address], |_| {});
    assert_eq!(lookup_v4(&failing, "a.test"), Err(LookupError::TryAgain));
    assert_eq!(refusing.questions().len(), 3, "two attempts more");
    assert_eq!(lookup_v4(&resolver(&[closed], |_| {}), "a.test"), Err(LookupError::TryAgain));
}

#[test]
fn each_server_is_given_its_time_and_all_are_asked_again() {
    let hub = Hub::with_mock_clock();
    let silent: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<SocketAddr> = silent.iter().map(|socket| socket.local_addr().unwrap()).collect();
    let resolver = resolver(&addresses, |options| options.timeout = Some(Duration::from_secs(3)));
    let start = hub.clock().now();
    assert_eq!(lookup_v4(&resolver, "a.test"), Err(LookupError::TryAgain));
    assert_eq!(hub.clock().now().since(start), Duration::from_secs(12));
    let mut buffer = [0; 600];
    for socket in &silent {
        socket.set_nonblocking(true).unwrap();
        let questions: Vec<_> = std::iter::from_fn(|| socket.recv(&mut buffer).ok()).collect();
        assert_eq!(questions.len(), 2);
    }
}

#[test]
fn the_lifetime_limits_a_look_up_as_a_whole() {
    let hub = Hub::with_mock_clock();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let lifetime = Duration::from_millis(1500);
    let resolver = resolver(&[silent.local_addr().unwrap()], |options| options.lifetime = Some(lifetime));
    let start = hub.clock().now();
    assert_eq!(resolver.lookup("a.test"), Err(LookupError::TryAgain));
    assert_eq!(hub.clock().now().since(start), lifetime);
}

#[test]
fn a_killed_wait_leaves_the_question_on_its_way_and_the_resolver_usable() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let receiver = Mutex::new(receiver);
    let server = FakeServer::new(move |question| {
        receiver.lock().unwrap().recv().unwrap();
        bytes(&with_address(question))
    });
    let resolver = server.resolver();
    let waiting = {
        let resolver = resolver.clone();
        crate::spawn(move || lookup_v4(&resolver, "a.test"))
    };
    crate::yield_now();
    waiting.kill();
    assert!(crate::Timeout::run(Duration::from_millis(5), || lookup_v4(&resolver, "a.test")).is_err());
    assert_eq!(resolver.load().0, 1);
    sender.send(()).unwrap();
    assert_eq!(lookup_v4(&resolver, "a.test"), Ok(v4()));
    assert_eq!(server.questions(), ["A a.test"]);
}

#[test]
fn thousands_at_once_use_few_sockets() {
    let most = Arc::new(AtomicUsize::new(0));
    let server = FakeServer::new(|question| bytes(&with_address(question)));
    let resolver = server.resolver();
    let greenlets: Vec<_> = (0..3000)
        .map(|number| {
            let (resolver, most) = (resolver.clone(), most.clone());
            crate::spawn(move || {
                let found = lookup_v4(&resolver, &format!("host{number}.test"));
                most.fetch_max(resolver.load().1, Ordering::Relaxed);
                found.is_ok()
            })
        })
        .collect();
    let answered = greenlets.into_iter().map(|greenlet| greenlet.get().unwrap()).filter(|&ok| ok);
    assert_eq!(answered.count(), 3000);
    assert!(most.load(Ordering::Relaxed) <= exchange::IN_FLIGHT);
}

#[test]
fn an_idle_resolver_closes_its_sockets() {
    let server = FakeServer::new(|question| bytes(&with_address(question)));
    let resolver = server.resolver();
    assert_eq!(lookup_v4(&resolver, "a.test"), Ok(v4()));
    assert_eq!(resolver.load().0, 0);
    // Timers fire in the order of their deadlines, so the socket's has fired when this one has.
    crate::sleep(exchange::CHANNEL_IDLE * 2);
    assert_eq!(resolver.load(), (0, 0));
}

#[test]
fn aliases_that_the_server_has_not_followed_are_followed() {
    let server = FakeServer::new(|question| {
        let alias = |to: &str| {
            let mut reply = reply(question);
            let owner = question.queries[0].name().clone();
            reply.add_answer(Record::from_rdata(owner, 60, RData::CNAME(CNAME(name(to)))));
            bytes(&reply)
        };
        match asks_for(question).0.as_str() {
            "a.test" => alias("b.test"),
            "b.test" => alias("c.test"),
            "left.test" => alias("right.test"),
            "right.test" => alias("left.test"),
            _ => bytes(&with_address(question)),
        }
    });
    let resolver = server.resolver();
    let host = resolver.lookup_host("a.test", Family::V4).unwrap();
    assert_eq!((host.name.as_str(), host.addresses), ("c.test", v4()));
    assert_eq!(host.aliases, ["a.test", "b.test"]);
    assert_eq!(lookup_v4(&resolver, "left.test"), Err(LookupError::Failed));
}

#[test]
fn addresses_of_a_kept_answer_take_turns() {
    let server = FakeServer::new(|question| {
        let mut reply = with_address(question);
        let owner = question.queries[0].name().clone();
        reply.add_answer(Record::from_rdata(owner, 60, RData::A(A::new(192, 0, 2, 2))));
        bytes(&reply)
    });
    let resolver = server.resolver();
    let first: Vec<_> = (0..4).map(|_| lookup_v4(&resolver, "a.test").unwrap()[0].to_string()).collect();
    assert_eq!(first, ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2"]);
}

#[test]
fn files_come_first_and_are_read_anew_when_they_change() {
    let server = FakeServer::new(|question| bytes(&reply(question)));
    let folder = TemporaryFolder::new();
    folder.write("hosts", "192.0.2.1 a.test alias\n");
    folder.write("nsswitch.conf", "hosts: files\n");
    let resolver = resolver(&[server.address], |options| {
        options.hosts = folder.path("hosts");
        options.nsswitch_conf = folder.path("nsswitch.conf");
    });
    assert_eq!(lookup_v4(&resolver, "alias"), Ok(v4()));
    assert_eq!(resolver.reverse("192.0.2.1".parse().unwrap()).unwrap().name, "a.test");
    assert_eq!(lookup_v4(&resolver, "b.test"), Err(LookupError::NotFound));
    assert!(server.questions().is_empty());
    folder.write("hosts", "192.0.2.1 b.test\n");
    folder.write("nsswitch.conf", "hosts: files dns\n");
    assert_eq!(lookup_v4(&resolver, "b.test"), Ok(v4()));
    assert_eq!(lookup_v4(&resolver, "a.test"), Err(LookupError::NoData));
}

#[test]
fn names_that_need_no_server() {
    let resolver = resolver(&[], |_| {});
    assert_eq!(resolver.lookup("192.0.2.1"), Ok(v4()));
    assert_eq!(resolver.lookup_host("::1", Family::V4), Err(LookupError::NoData));
    assert_eq!(lookup_v4(&resolver, "some.localhost."), Ok(vec![Ipv4Addr::LOCALHOST.into()]));
    assert_eq!(resolver.lookup("localhost").unwrap().len(), 2);
    for host in ["", ".", "a..b", &"a".repeat(64), "ä..test"] {
        assert_eq!(resolver.lookup(host), Err(LookupError::NotFound), "{host}");
    }
    assert_eq!(resolver.lookup("a.test"), Err(LookupError::TryAgain));
}

#[test]
fn letters_beyond_ascii_are_converted() {
    let server = FakeServer::new(|question| bytes(&with_address(question)));
    assert_eq!(lookup_v4(&server.resolver(), "bücher.test"), Ok(v4()));
    assert_eq!(server.questions(), ["A xn--bcher-kva.test"]);
}

#[test]
fn each_thread_has_resolvers_of_its_own() {
    let server = FakeServer::new(|question| bytes(&with_address(question)));
    let address = server.address;
    let found = std::thread::spawn(move || {
        let resolver = resolver(&[address], |_| {});
        crate::spawn(move || lookup_v4(&resolver, "a.test")).get().unwrap()
    });
    assert_eq!(found.join().unwrap(), Ok(v4()));
}

/// A folder that is removed when it is dropped.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("greenrust-resolver-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        // As editors do: a new file takes the old one's place.
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
