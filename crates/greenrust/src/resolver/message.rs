//! Questions and answers as bytes: the codec is hickory-proto's, what an answer means is decided here.
//!
//! An answer is believed only if it carries the question's id and repeats the question; the sender's address is the
//! kernel's business, as each socket is connected to its server. A name in an answer that is no host name is refused, since
//! programs pass names on to where an odd character has a meaning.

#![forbid(unsafe_code)]

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// The size of datagrams that we can take: what passes without being fragmented, as DNS Flag Day 2020 recommends.
pub const DATAGRAM_SIZE: u16 = 1232;
/// How many names may stand between a name and its address.
pub const LONGEST_CHAIN: usize = 16;

/// What is asked about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Its IPv4 addresses.
    A,
    /// Its IPv6 addresses.
    Aaaa,
    /// The name that an address stands for.
    Ptr,
}

impl Kind {
    fn record_type(self) -> RecordType {
        match self {
            Kind::A => RecordType::A,
            Kind::Aaaa => RecordType::AAAA,
            Kind::Ptr => RecordType::PTR,
        }
    }
}

/// A question to a name server. Equal if it asks for the same, in whatever letters.
#[derive(Debug, Clone)]
pub struct Question {
    name: Name,
    /// The name in small letters.
    key: String,
    kind: Kind,
}

impl PartialEq for Question {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.key == other.key
    }
}

impl Eq for Question {}

impl Hash for Question {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
        self.kind.hash(state);
    }
}

impl Question {
    /// Returns the question for a name as it is: no search domain is appended. None for what is no name: an empty label,
    /// one of more than 63 bytes, more than 255 bytes in all.
    pub fn new(name: &str, kind: Kind) -> Option<Self> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let parsed = Name::from_labels(name.split('.').map(str::as_bytes)).ok()?;
        Some(Self { name: parsed, key: name.to_ascii_lowercase(), kind })
    }

    /// Returns the question for the name of an address.
    pub fn reverse(address: IpAddr) -> Self {
        let name = Name::from(address);
        Self { key: text(&name).to_ascii_lowercase(), name, kind: Kind::Ptr }
    }

    /// Returns what is asked.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the bytes of the question; with `extended`, they say that we take more than 512 bytes (EDNS). Only where
    /// it is `recursive` does the server ask others.
    pub fn to_bytes(&self, id: u16, extended: bool, recursive: bool) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = recursive;
        message.add_query(Query::query(self.name.clone(), self.kind.record_type()));
        if extended {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM_SIZE);
            message.set_edns(edns);
        }
        message.to_vec().expect("one question fits into a message")
    }
}

/// What a server said about a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The addresses, at least one, in the server's order.
    Addresses(Vec<IpAddr>),
    /// The names of an address, at least one.
    Names(Vec<String>),
    /// The name is an alias of [`Answer::name`], of which the server says nothing.
    Alias,
    /// The name exists and has nothing of the kind.
    NoData,
    /// There is no such name.
    NoName,
}

/// An answer that can be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name at the end of the chain of aliases.
    pub name: String,
    /// The names on the way there, that of the question first.
    pub aliases: Vec<String>,
    /// What was said.
    pub outcome: Outcome,
    /// How many seconds it is good for.
    pub ttl: u32,
}

impl Answer {
    /// Says whether the answer is that there is nothing.
    pub fn is_negative(&self) -> bool {
        matches!(self.outcome, Outcome::NoData | Outcome::NoName)
    }
}

/// What the bytes from a server mean for a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing: they belong to another question, or are no answer at all.
    Foreign,
    /// The answer did not fit; it is to be had over TCP.
    Truncated,
    /// The server did not understand the question.
    NotUnderstood,
    /// The server can't or won't answer; another may.
    Refused,
    /// The answer holds a name that is no host name.
    BadName,
    /// An answer.
    Answer(Answer),
}

/// Returns the id of a message.
pub fn id(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]))
}

/// Returns a reply as one that says that it is whole.
pub fn without_truncation(bytes: &[u8]) -> Vec<u8> {
    let mut whole = bytes.to_vec();
    if let Some(flags) = whole.get_mut(2) {
        *flags &= !0x02;
    }
    whole
}

/// Reads a reply to the question that was sent with this id.
pub fn read(bytes: &[u8], id: u16, question: &Question) -> Reply {
    // Reading the header first spares a parser of everything what is not meant for it.
    if self::id(bytes) != Some(id) || bytes.len() < 12 || bytes[2] & 0x80 == 0 {
        return Reply::Foreign;
    }
    let is_truncated = bytes[2] & 0x02 != 0;
    let Ok(message) = Message::from_vec(bytes) else {
        // Cut off in the middle of a record, as a truncated answer may be; else it is garbage that a server sent.
        return if is_truncated { Reply::Truncated } else { Reply::Refused };
    };
    if !repeats(&message, question) {
        // A server that fails to read a question may leave it out.
        let understood = message.metadata.response_code != ResponseCode::FormErr || !message.queries.is_empty();
        return if understood { Reply::Foreign } else { Reply::NotUnderstood };
    }
    if is_truncated {
        return Reply::Truncated;
    }
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => interpret(&message, question),
        ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS => Reply::NotUnderstood,
        _ => Reply::Refused,
    }
}

fn repeats(message: &Message, question: &Question) -> bool {
    let [query] = message.queries.as_slice() else {
        return false;
    };
    query.query_type() == question.kind.record_type()
        && query.query_class() == DNSClass::IN
        && query.name().eq_ignore_root(&question.name)
}

/// Follows the aliases from the question's name to what was asked for.
fn interpret(message: &Message, question: &Question) -> Reply {
    let mut name = &question.name;
    let mut ttl = u32::MAX;
    let mut aliases = Vec::new();
    let mut links = 0;
    loop {
        let mut found = message.answers.iter().filter(|record| {
            record.record_type() == question.kind.record_type()
                && record.dns_class == DNSClass::IN
                && record.name.eq_ignore_root(name)
        });
        if let Some(first) = found.next() {
            let records: Vec<&Record> = std::iter::once(first).chain(found).collect();
            let ttl = records.iter().map(|record| seconds(record)).fold(ttl, u32::min);
            return found_records(text(&first.name), aliases, &records, ttl);
        }
        let alias = message
            .answers
            .iter()
            .find(|record| record.record_type() == RecordType::CNAME && record.name.eq_ignore_root(name));
        let Some((record, target)) = alias.and_then(|record| match &record.data {
            RData::CNAME(target) => Some((record, &target.0)),
            _ => None,
        }) else {
            break;
        };
        if links == LONGEST_CHAIN {
            return Reply::Refused;
        }
        links += 1;
        let alias = text(&record.name);
        if is_host_name(&alias) {
            aliases.push(alias);
        }
        ttl = ttl.min(seconds(record));
        name = target;
    }
    let is_missing = message.metadata.response_code == ResponseCode::NXDomain;
    let negative_ttl = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(soa.minimum.min(seconds(record))),
        _ => None,
    });
    let outcome = match (is_missing, negative_ttl) {
        (true, _) => Outcome::NoName,
        // A recursive server says with an SOA record that it has looked for the target.
        (false, None) if links > 0 => Outcome::Alias,
        (false, _) => Outcome::NoData,
    };
    let ttl = match outcome {
        Outcome::Alias => ttl,
        _ => ttl.min(negative_ttl.unwrap_or(0)),
    };
    let name = text(name);
    if !is_host_name(&name) && outcome == Outcome::Alias {
        return Reply::BadName;
    }
    Reply::Answer(Answer { name, aliases, outcome, ttl })
}

fn found_records(name: String, aliases: Vec<String>, records: &[&Record], ttl: u32) -> Reply {
    let mut addresses = Vec::new();
    let mut names = Vec::new();
    for record in records {
        match &record.data {
            RData::A(address) => addresses.push(IpAddr::V4(address.0)),
            RData::AAAA(address) => addresses.push(IpAddr::V6(address.0)),
            RData::PTR(target) => {
                let target = text(&target.0);
                if is_host_name(&target) {
                    names.push(target);
                }
            }
            _ => {}
        }
    }
    let outcome = match (addresses.is_empty(), names.is_empty()) {
        (false, _) if is_host_name(&name) => Outcome::Addresses(addresses),
        (true, false) => Outcome::Names(names),
        _ => return Reply::BadName,
    };
    Reply::Answer(Answer { name, aliases, outcome, ttl })
}

/// The time to live of a record; one beyond 31 bits is none at all (RFC 2181, section 8).
fn seconds(record: &Record) -> u32 {
    if record.ttl > i32::MAX as u32 { 0 } else { record.ttl }
}

/// A name as programs know it, without the dot at its end. Bytes that are no ASCII become `?`: no host name has them.
fn text(name: &Name) -> String {
    let mut text = String::with_capacity(64);
    for label in name {
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|&byte| match byte {
            b'.' => '?',
            byte if byte.is_ascii() => char::from(byte),
            _ => '?',
        }));
    }
    text
}

/// Says whether a name is made of letters, digits, `-`, `_` and dots, and begins with no `-`, as glibc demands of the
/// names in answers (`res_hnok`). The root is none.
pub fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_labels(text.split('.').map(str::as_bytes)).unwrap()
    }

    fn reply_to(question: &Question, id: u16) -> Message {
        let mut message = Message::from_vec(&question.to_bytes(id, true, true)).unwrap();
        message.metadata.message_type = MessageType::Response;
        message.edns = None;
        message
    }

    fn alias(from: &str, to: &str, ttl: u32) -> Record {
        Record::from_rdata(name(from), ttl, RData::CNAME(CNAME(name(to))))
    }

    fn address(owner: &str, last: u8, ttl: u32) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A::new(192, 0, 2, last)))
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        Record::from_rdata(
            name("test"),
            ttl,
            RData::SOA(SOA::new(name("ns.test"), name("me.test"), 1, 1, 1, 1, minimum)),
        )
    }

    fn answer(message: &Message, question: &Question) -> Answer {
        match read(&message.to_vec().unwrap(), message.metadata.id, question) {
            Reply::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn aliases_lead_to_the_addresses_in_any_order_of_records() {
        let question = Question::new("a.test", Kind::A).unwrap();
        let mut message = reply_to(&question, 7);
        message.add_answer(address("c.test", 1, 60));
        message.add_answer(alias("b.test", "c.test", 20));
        message.add_answer(alias("A.test", "b.test", 30));
        message.add_answer(address("c.test", 2, 50));
        message.add_answer(address("other.test", 3, 1));
        assert_eq!(
            answer(&message, &question),
            Answer {
                name: "c.test".into(),
                aliases: vec!["A.test".into(), "b.test".into()],
                outcome: Outcome::Addresses(vec![[192, 0, 2, 1].into(), [192, 0, 2, 2].into()]),
                ttl: 20,
            }
        );
    }

    #[test]
    fn a_circle_of_aliases_ends() {
        let question = Question::new("a.test", Kind::A).unwrap();
        let mut message = reply_to(&question, 7);
        message.add_answer(alias("a.test", "b.test", 20));
        message.add_answer(alias("b.test", "a.test", 20));
        assert_eq!(read(&message.to_vec().unwrap(), 7, &question), Reply::Refused);
    }

    #[test]
    fn what_does_not_exist_is_known_for_as_long_as_the_zone_says() {
        let question = Question::new("a.test", Kind::Aaaa).unwrap();
        let mut message = reply_to(&question, 7);
        assert_eq!((answer(&message, &question).outcome, answer(&message, &question).ttl), (Outcome::NoData, 0));
        message.add_authority(soa(100, 40));
        message.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!((answer(&message, &question).outcome, answer(&message, &question).ttl), (Outcome::NoName, 40));
        message.authorities = vec![soa(30, 40)];
        message.metadata.response_code = ResponseCode::NoError;
        assert_eq!((answer(&message, &question).outcome, answer(&message, &question).ttl), (Outcome::NoData, 30));
    }

    #[test]
    fn an_alias_alone_asks_to_go_on_there() {
        let question = Question::new("a.test", Kind::A).unwrap();
        let mut message = reply_to(&question, 7);
        message.add_answer(alias("a.test", "b.test", 20));
        let found = answer(&message, &question);
        assert_eq!((found.name.as_str(), found.outcome, found.ttl), ("b.test", Outcome::Alias, 20));
    }

    #[test]
    fn only_what_repeats_id_and_question_is_believed() {
        let question = Question::new("a.test", Kind::A).unwrap();
        let mut message = reply_to(&question, 7);
        message.add_answer(address("a.test", 1, 60));
        let bytes = message.to_vec().unwrap();
        assert_eq!(read(&bytes, 8, &question), Reply::Foreign);
        assert_eq!(read(&bytes, 7, &Question::new("b.test", Kind::A).unwrap()), Reply::Foreign);
        assert_eq!(read(&bytes, 7, &Question::new("a.test", Kind::Aaaa).unwrap()), Reply::Foreign);
        assert_eq!(read(&question.to_bytes(7, false, true), 7, &question), Reply::Foreign);
        assert_eq!(read(&bytes[..5], 7, &question), Reply::Foreign);
        let other_letters = Question::new("A.TEST", Kind::A).unwrap();
        assert!(matches!(read(&bytes, 7, &other_letters), Reply::Answer(_)));
    }

    #[test]
    fn codes_of_servers_that_fail_are_told_apart() {
        let question = Question::new("a.test", Kind::A).unwrap();
        let mut message = reply_to(&question, 7);
        message.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(read(&message.to_vec().unwrap(), 7, &question), Reply::Refused);
        message.metadata.response_code = ResponseCode::FormErr;
        assert_eq!(read(&message.to_vec().unwrap(), 7, &question), Reply::NotUnderstood);
        message.queries.clear();
        assert_eq!(read(&message.to_vec().unwrap(), 7, &question), Reply::NotUnderstood);
        message.metadata.response_code = ResponseCode::NoError;
        assert_eq!(read(&message.to_vec().unwrap(), 7, &question), Reply::Foreign);
    }

    #[test]
    fn a_truncated_answer_is_noticed_even_if_it_ends_within_a_record() {
        let question = Question::new("a.test", Kind::A).unwrap();
        let mut message = reply_to(&question, 7);
        message.add_answer(address("a.test", 1, 60));
        message.metadata.truncation = true;
        let bytes = message.to_vec().unwrap();
        assert_eq!(read(&bytes, 7, &question), Reply::Truncated);
        assert_eq!(read(&bytes[..bytes.len() - 2], 7, &question), Reply::Truncated);
    }

    #[test]
    fn names_that_are_no_host_names_are_refused() {
        let question = Question::reverse("192.0.2.1".parse().unwrap());
        let mut message = reply_to(&question, 7);
        let owner = name("1.2.0.192.in-addr.arpa");
        for target in ["$(reboot).test", "good.test", "-bad.test"] {
            message.add_answer(Record::from_rdata(owner.clone(), 60, RData::PTR(PTR(name(target)))));
        }
        assert_eq!(answer(&message, &question).outcome, Outcome::Names(vec!["good.test".into()]));
        message.answers.remove(1);
        assert_eq!(read(&message.to_vec().unwrap(), 7, &question), Reply::BadName);
    }

    #[test]
    fn an_alias_that_is_no_host_name_is_followed_and_not_told() {
        let question = Question::new("a.test", Kind::A).unwrap();
        let mut message = reply_to(&question, 7);
        message.add_answer(alias("a.test", "$(reboot).test", 20));
        message.add_answer(alias("$(reboot).test", "b.test", 20));
        message.add_answer(address("b.test", 1, 60));
        let found = answer(&message, &question);
        assert_eq!((found.name.as_str(), found.aliases), ("b.test", vec!["a.test".to_owned()]));
        let question = Question::reverse("192.0.2.1".parse().unwrap());
        let mut message = reply_to(&question, 7);
        message.add_answer(Record::from_rdata(name("1.2.0.192.in-addr.arpa"), 60, RData::PTR(PTR(Name::root()))));
        assert_eq!(read(&message.to_vec().unwrap(), 7, &question), Reply::BadName);
    }

    /// What holds for every answer, whatever a server sent.
    fn check(reply: &Reply, question: &Question) {
        let Reply::Answer(answer) = reply else { return };
        assert!(answer.aliases.len() <= LONGEST_CHAIN);
        assert!(answer.aliases.iter().all(|alias| is_host_name(alias)));
        match &answer.outcome {
            Outcome::Addresses(addresses) => {
                assert!(!addresses.is_empty() && is_host_name(&answer.name));
                assert!(question.kind != Kind::Ptr);
                assert!(addresses.iter().all(|address| address.is_ipv4() == (question.kind == Kind::A)));
            }
            Outcome::Names(names) => {
                assert!(question.kind == Kind::Ptr && !names.is_empty());
                assert!(names.iter().all(|name| is_host_name(name)));
            }
            Outcome::Alias => assert!(is_host_name(&answer.name) && !answer.aliases.is_empty()),
            Outcome::NoData | Outcome::NoName => {}
        }
    }

    fn good_reply(kind: Kind, id: u16) -> (Question, Vec<u8>) {
        let question = match kind {
            Kind::Ptr => Question::reverse("192.0.2.1".parse().unwrap()),
            kind => Question::new("a.test", kind).unwrap(),
        };
        let mut message = reply_to(&question, id);
        message.add_answer(alias("a.test", "b.test", 20));
        message.add_answer(address("b.test", 1, 60));
        message.add_answer(Record::from_rdata(
            name("b.test"),
            60,
            RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        ));
        message.add_answer(Record::from_rdata(name("1.2.0.192.in-addr.arpa"), 60, RData::PTR(PTR(name("c.test")))));
        message.add_authority(soa(100, 40));
        (question, message.to_vec().unwrap())
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in vec(any::<u8>(), 0..600), id: u16, kind in 0..3) {
            let kind = [Kind::A, Kind::Aaaa, Kind::Ptr][kind as usize];
            let (question, _) = good_reply(kind, id);
            check(&read(&bytes, super::id(&bytes).unwrap_or(id), &question), &question);
        }

        #[test]
        fn damaged_replies_are_read(
            damages in vec((any::<Index>(), any::<u8>(), 0..4), 0..6),
            cut in proptest::option::weighted(0.2, any::<Index>()),
            kind in 0..3,
        ) {
            let kind = [Kind::A, Kind::Aaaa, Kind::Ptr][kind as usize];
            let (question, mut bytes) = good_reply(kind, 7);
            for (index, byte, what) in damages {
                // Pointers of compressed names are what is read in circles.
                let position = index.index(bytes.len());
                match what {
                    0 => bytes[position] = byte,
                    1 => bytes[position] = 0xc0 | byte & 3,
                    2 => bytes.insert(position, byte),
                    _ => bytes[position] ^= 1 << (byte & 7),
                }
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let reply = read(&bytes, 7, &question);
            check(&reply, &question);
            if super::id(&bytes) != Some(7) {
                prop_assert_eq!(reply, Reply::Foreign);
            }
        }
    }

    #[test]
    fn what_is_no_name_gives_no_question() {
        for text in ["", ".", "a..b", &"a".repeat(64), &"a.".repeat(128)] {
            assert!(Question::new(text, Kind::A).is_none(), "{text}");
        }
        assert!(Question::new("a.test.", Kind::A).is_some());
    }
}
