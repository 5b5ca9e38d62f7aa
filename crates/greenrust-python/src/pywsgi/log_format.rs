//! The shape of the access log's lines: gevent's own, JSON, or a format string with the directives of Apache's
//! [mod_log_config](https://httpd.apache.org/docs/2.4/mod/mod_log_config.html#formats).
//!
//! What a client sent is escaped, so that a request can neither end a line nor reach a terminal.

#![forbid(unsafe_code)]

use std::io::Write;

/// How a request is logged.
#[derive(Debug, Default)]
pub enum LogFormat {
    /// gevent's line.
    #[default]
    Standard,
    /// An object in JSON.
    Json,
    /// The parts of a format string.
    Parts(Vec<Part>),
}

/// A piece of a line.
#[derive(Debug)]
pub enum Part {
    Text(Vec<u8>),
    Client,
    Port,
    Time,
    RequestLine,
    Method,
    Path,
    Query,
    Protocol,
    Status,
    /// Bytes behind the head; a dash for none if the flag is set.
    BodyBytes(bool),
    BytesSent,
    Microseconds,
    Seconds,
    Process,
    RequestField(String),
    ResponseField(String),
    Nothing,
}

/// What is known of a request that was answered.
pub struct Record<'a> {
    pub client: &'a [u8],
    pub port: &'a [u8],
    pub request_line: &'a [u8],
    pub status: &'a [u8],
    pub bytes_sent: u64,
    pub head_bytes: u64,
    /// Seconds since the epoch at which the request began.
    pub start: f64,
    pub seconds: f64,
    pub request_field: &'a dyn Fn(&str) -> Option<Vec<u8>>,
    pub response_field: &'a dyn Fn(&str) -> Option<Vec<u8>>,
}

impl LogFormat {
    /// Reads `json` or a format string.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("json") {
            return Ok(Self::Json);
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(place) = rest.find('%') {
            literal.push_str(&rest[..place]);
            rest = &rest[place + 1..];
            // `%>s` is the last status of Apache's internal redirects, which don't exist here.
            rest = rest.strip_prefix('>').unwrap_or(rest);
            let mut name = None;
            if let Some(braced) = rest.strip_prefix('{') {
                let (inside, behind) = braced.split_once('}').ok_or("'%{' without '}'")?;
                name = Some(inside.to_owned());
                rest = behind;
            }
            let directive = rest.chars().next().ok_or("'%' at the end")?;
            rest = &rest[directive.len_utf8()..];
            if directive == '%' && name.is_none() {
                literal.push('%');
                continue;
            }
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal).into_bytes()));
            }
            parts.push(match (directive, name) {
                ('i', Some(name)) => Part::RequestField(name),
                ('o', Some(name)) => Part::ResponseField(name),
                (directive, Some(name)) => return Err(format!("unknown directive '%{{{name}}}{directive}'")),
                ('a' | 'h', None) => Part::Client,
                ('l' | 'u', None) => Part::Nothing,
                ('t', None) => Part::Time,
                ('r', None) => Part::RequestLine,
                ('m', None) => Part::Method,
                ('U', None) => Part::Path,
                ('q', None) => Part::Query,
                ('H', None) => Part::Protocol,
                ('s', None) => Part::Status,
                ('b', None) => Part::BodyBytes(true),
                ('B', None) => Part::BodyBytes(false),
                ('O', None) => Part::BytesSent,
                ('D', None) => Part::Microseconds,
                ('T', None) => Part::Seconds,
                ('P', None) => Part::Process,
                ('p', None) => Part::Port,
                (directive, None) => return Err(format!("unknown directive '%{directive}'")),
            });
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal.into_bytes()));
        }
        Ok(Self::Parts(parts))
    }

    /// Makes the line of a request; None for gevent's own.
    pub fn line(&self, record: &Record<'_>) -> Option<Vec<u8>> {
        let mut line = Vec::with_capacity(200);
        match self {
            Self::Standard => return None,
            Self::Json => json(&mut line, record),
            Self::Parts(parts) => {
                for part in parts {
                    part.append(&mut line, record);
                }
            }
        }
        Some(line)
    }
}

impl Record<'_> {
    /// Method, path, query and protocol, as far as the request line has them.
    fn parts(&self) -> [&[u8]; 4] {
        let mut words = self.request_line.splitn(3, |&byte| byte == b' ');
        let [method, target, protocol] = [(); 3].map(|()| words.next().unwrap_or_default());
        let (path, query) = match target.iter().position(|&byte| byte == b'?') {
            Some(place) => (&target[..place], &target[place..]),
            None => (target, &target[..0]),
        };
        [method, path, query, protocol]
    }

    fn body_bytes(&self) -> u64 {
        self.bytes_sent.saturating_sub(self.head_bytes)
    }
}

impl Part {
    fn append(&self, line: &mut Vec<u8>, record: &Record<'_>) {
        // Writing to a vector can't fail.
        let _ = match self {
            Self::Text(text) => line.write_all(text),
            Self::Client => escaped_or_dash(line, record.client),
            Self::Port => escaped_or_dash(line, record.port),
            Self::Time => {
                line.push(b'[');
                super::access_log::append_log_time(line, record.start as i64);
                line.write_all(b"]")
            }
            Self::RequestLine => escaped(line, record.request_line),
            Self::Method => escaped_or_dash(line, record.parts()[0]),
            Self::Path => escaped(line, record.parts()[1]),
            Self::Query => escaped(line, record.parts()[2]),
            Self::Protocol => escaped_or_dash(line, record.parts()[3]),
            Self::Status => escaped_or_dash(line, record.status),
            Self::BodyBytes(true) if record.body_bytes() == 0 => line.write_all(b"-"),
            Self::BodyBytes(_) => write!(line, "{}", record.body_bytes()),
            Self::BytesSent => write!(line, "{}", record.bytes_sent),
            Self::Microseconds => write!(line, "{:.0}", record.seconds * 1e6),
            Self::Seconds => write!(line, "{:.6}", record.seconds),
            Self::Process => write!(line, "{}", std::process::id()),
            Self::RequestField(name) => {
                escaped_or_dash(line, (record.request_field)(name).as_deref().unwrap_or_default())
            }
            Self::ResponseField(name) => {
                escaped_or_dash(line, (record.response_field)(name).as_deref().unwrap_or_default())
            }
            Self::Nothing => line.write_all(b"-"),
        };
    }
}

fn escaped_or_dash(line: &mut Vec<u8>, bytes: &[u8]) -> std::io::Result<()> {
    if bytes.is_empty() { line.write_all(b"-") } else { escaped(line, bytes) }
}

/// Appends bytes of a client's as Apache does: quotes and backslashes behind a backslash, what is not printable as `\xhh`.
pub fn escaped(line: &mut Vec<u8>, bytes: &[u8]) -> std::io::Result<()> {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => line.extend([b'\\', byte]),
            b' '..=b'~' => line.push(byte),
            _ => write!(line, "\\x{byte:02x}")?,
        }
    }
    Ok(())
}

fn json(line: &mut Vec<u8>, record: &Record<'_>) {
    let [method, path, query, protocol] = record.parts();
    let query = query.strip_prefix(b"?").unwrap_or(query);
    line.extend_from_slice(b"{\"time\": \"");
    super::access_log::append_utc_time(line, record.start);
    line.push(b'"');
    let mut text = |name: &str, value: &[u8]| {
        let _ = write!(line, ", \"{name}\": ");
        json_text(line, value);
    };
    for (name, value) in
        [("client", record.client), ("method", method), ("path", path), ("query", query), ("protocol", protocol)]
    {
        text(name, value);
    }
    for (name, field) in [("referer", "referer"), ("user_agent", "user-agent")] {
        if let Some(value) = (record.request_field)(field) {
            text(name, &value);
        }
    }
    // A broken connection has no status.
    let status = std::str::from_utf8(record.status).ok().and_then(|status| status.parse::<u16>().ok());
    let _ = write!(
        line,
        ", \"status\": {}, \"body_bytes\": {}, \"seconds\": {:.6}}}",
        status.map_or("null".to_owned(), |status| status.to_string()),
        record.body_bytes(),
        record.seconds
    );
}

/// Appends bytes as a string of JSON (RFC 8259 section 7), in ASCII: as UTF-8 if they are, else as latin-1.
fn json_text(line: &mut Vec<u8>, bytes: &[u8]) {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    };
    line.push(b'"');
    for character in text.chars() {
        match character {
            '"' | '\\' => line.extend([b'\\', character as u8]),
            ' '..='~' => line.push(character as u8),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(line, "\\u{unit:04x}");
                }
            }
        }
    }
    line.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: &str) -> String {
        let record = Record {
            client: b"192.0.2.7",
            port: b"4711",
            request_line: b"GET /a%20b\x1b\"?c=d HTTP/1.1",
            status: b"200",
            bytes_sent: 150,
            head_bytes: 100,
            start: 1_000_000_000.25,
            seconds: 0.0125,
            request_field: &|name| (name == "user-agent" || name == "User-Agent").then(|| "\u{e9}\u{1f600}".into()),
            response_field: &|name| (name == "X-A").then(|| b"1".to_vec()),
        };
        let line = LogFormat::parse(format).unwrap().line(&record).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn directives_are_those_of_apache() {
        assert_eq!(line("%h %a:%p %l %u"), "192.0.2.7 192.0.2.7:4711 - -");
        assert_eq!(line("\"%r\" %>s %s"), r#""GET /a%20b\x1b\"?c=d HTTP/1.1" 200 200"#);
        assert_eq!(line("%m|%U|%q|%H"), r#"GET|/a%20b\x1b\"|?c=d|HTTP/1.1"#);
        assert_eq!(line("%b %B %O %D %T %%"), "50 50 150 12500 0.012500 %");
        assert_eq!(line("%{User-Agent}i %{X-A}o %{X-B}o"), r"\xc3\xa9\xf0\x9f\x98\x80 1 -");
        assert_eq!(line("%P"), std::process::id().to_string());
    }

    #[test]
    fn unknown_directives_are_named() {
        for (format, word) in [("%z", "%z"), ("a%", "'%'"), ("%{x", "'%{'"), ("%{x}z", "%{x}z"), ("%{x}%", "%{x}%")] {
            let error = LogFormat::parse(format).unwrap_err();
            assert!(error.contains(word), "{format}: {error}");
        }
    }

    #[test]
    fn json_is_escaped() {
        assert_eq!(
            line("json"),
            concat!(
                r#"{"time": "2001-09-09T01:46:40.250Z", "client": "192.0.2.7", "method": "GET", "#,
                r#""path": "/a%20b\u001b\"", "query": "c=d", "protocol": "HTTP/1.1", "#,
                r#""user_agent": "\u00e9\ud83d\ude00", "status": 200, "body_bytes": 50, "seconds": 0.012500}"#
            )
        );
    }
}
