//! A web server: each connection is served by a greenlet of its own. Ctrl+C stops it.
//!
//! Usage: tutorial_6_http_server [PORT]    (8000 unless given; 0 takes any free port)

use std::error::Error;
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

fn main() -> Result<(), Box<dyn Error>> {
    let port = match std::env::args().nth(1) {
        Some(argument) => argument.parse()?,
        None => 8000,
    };
    // From here on Ctrl+C doesn't end the program: it is noted, for whoever waits for it.
    let mut interrupt = Signal::new(SIGINT)?;
    let server = HttpServer::new(TcpListener::bind(("127.0.0.1", port))?, application)?;
    server.start();
    println!("Serving on http://{} (Ctrl+C stops)", server.local_addr());

    interrupt.wait()?; // meanwhile the greenlets of the server run
    server.stop(Duration::from_secs(1)); // requests that have begun get a second to be answered
    println!("Server stopped");
    Ok(())
}
