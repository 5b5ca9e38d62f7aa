//! A web server: each connection is served by a greenlet of its own. Ctrl+C stops it.
//!
//! Usage: tutorial_6_http_server [PORT]    (8000 unless given; 0 takes any free port)

use std::io;
use std::time::Duration;

use greenrust::http_server::{HttpServer, Request, Response};
use greenrust::signal::{SIGINT, Signal};
use greenrust::socket::TcpListener;

/// Answers one request.
fn application(request: &mut Request<'_>) -> Response {
    let page = match &*request.path() {
        "/" => "<h1>Welcome to a web server made with greenrust!</h1>".to_owned(),
        "/about" => "<h1>This is greenrust's demo server</h1>".to_owned(),
        path => format!("<h1>You asked for: {}</h1>", escape(path)),
    };
    Response::new(200).header("Content-Type", "text/html; charset=utf-8").body(page)
}

/// What a stranger sent must not be taken for markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn main() -> io::Result<()> {
    let port = match std::env::args().nth(1) {
        Some(argument) => argument.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        None => 8000,
    };
    let mut interrupt = Signal::new(SIGINT)?;
    let server = HttpServer::new(TcpListener::bind(("127.0.0.1", port))?, application)?;
    server.start();
    println!("Serving on http://{} (Ctrl+C stops)", server.local_addr());

    interrupt.wait()?;
    server.stop(Duration::from_secs(1)); // requests that have begun are answered
    println!("Server stopped");
    Ok(())
}
