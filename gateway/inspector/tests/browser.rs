//! The page in headless Chromium, over the DevTools protocol. Without a browser the tests say so and are passed over.

#[allow(dead_code, reason = "shared by several tests")]
mod common;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use extproc_client::http::Request;
use futures_util::{SinkExt as _, StreamExt as _};
use gateway_inspector::{Inspector, Settings};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite};

use self::common::*;

/// Longest wait for what a page is to show.
const LIMIT: Duration = Duration::from_secs(60);

/// Markup that runs a script, in each place where a text may end up.
const HOSTILE: &str =
    "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>";

/// A browser with one page.
struct Browser {
    socket: WebSocketStream<TcpStream>,
    session: String,
    last: u64,
    _process: Child,
    profile: PathBuf,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

impl Browser {
    async fn open() -> Option<Self> {
        let programs = ["chromium", "chromium-browser", "google-chrome"];
        let paths = std::env::var_os("PATH")?;
        let mut found = std::env::split_paths(&paths)
            .flat_map(|folder| programs.map(|program| folder.join(program)));
        let Some(program) = found.find(|path| path.is_file()) else {
            println!("no Chromium in PATH: the page is not looked at");
            return None;
        };
        let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "chromium-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let mut process = Command::new(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--remote-debugging-port=0",
            ])
            .args([
                "--no-first-run",
                "--disable-dev-shm-usage",
                "--window-size=1280,900",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = timeout(LIMIT, async {
            loop {
                let line = lines
                    .next_line()
                    .await
                    .unwrap()
                    .expect("Chromium has ended");
                if let Some((_, address)) = line.split_once("listening on ") {
                    break address.to_owned();
                }
            }
        });
        let address = address.await.expect("Chromium says no address");
        // What it writes later has to go somewhere.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let host = address
            .trim_start_matches("ws://")
            .split('/')
            .next()
            .unwrap();
        let stream = TcpStream::connect(host).await.unwrap();
        let (socket, _) = client_async(address.as_str(), stream).await.unwrap();
        let mut browser = Self {
            socket,
            session: String::new(),
            last: 0,
            _process: process,
            profile,
        };
        let target = browser
            .call("Target.createTarget", json!({"url": "about:blank"}))
            .await;
        let to = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", to).await;
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        browser.call("Page.enable", json!({})).await;
        Some(browser)
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut call = json!({"id": self.last, "method": method, "params": params});
        if !self.session.is_empty() {
            call["sessionId"] = self.session.as_str().into();
        }
        let call = tungstenite::Message::text(call.to_string());
        self.socket.send(call).await.unwrap();
        let answered = timeout(LIMIT, async {
            loop {
                let message = self.socket.next().await.unwrap().unwrap();
                let Ok(text) = message.to_text() else {
                    continue;
                };
                let message: Value = serde_json::from_str(text).unwrap_or_default();
                if message["id"] == self.last {
                    assert!(message.get("error").is_none(), "{method}: {message}");
                    break message["result"].clone();
                }
            }
        });
        answered.await.expect(method)
    }

    async fn go(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url})).await;
        self.wait("document.body?.dataset.ready === 'true'").await;
    }

    /// The value of an expression on the page.
    async fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", params).await;
        assert!(
            result.get("exceptionDetails").is_none(),
            "{expression}: {result}"
        );
        result["result"]["value"].clone()
    }

    /// Writes a picture of the page into the folder that `INSPECTOR_SCREENSHOTS` names, if it does.
    async fn picture(&mut self, name: &str) {
        if let Some(folder) = std::env::var_os("INSPECTOR_SCREENSHOTS") {
            let png = self
                .call("Page.captureScreenshot", json!({"format": "png"}))
                .await;
            let png = STANDARD.decode(png["data"].as_str().unwrap()).unwrap();
            std::fs::write(Path::new(&folder).join(name), png).unwrap();
        }
    }

    /// Waits until an expression is true, frame by frame.
    async fn wait(&mut self, expression: &str) {
        let waited = timeout(LIMIT, async {
            // A page that is just being replaced answers nothing of use.
            while self.value(&format!("Boolean({expression})")).await != true {
                self.value("new Promise((done) => setTimeout(done, 20))")
                    .await;
            }
        });
        assert!(waited.await.is_ok(), "not true: {expression}");
    }
}

async fn page(inspector: &Arc<Inspector>) -> String {
    let (address, _) = serve(inspector, "127.0.0.1:0").await;
    format!("http://{address}/")
}

#[tokio::test]
async fn markup_is_shown_as_text() {
    let mut settings = Settings::default();
    settings.bodies = 1024;
    let inspector = inspector(settings);
    let request = Request::builder()
        .uri("http://shop.test/%3Cimg%20src=x%3E?a=%3Cscript%3E")
        .header("x-hostile", HOSTILE);
    let processor = Scripted::new(|request| {
        use extproc_client::envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
        match request.request {
            Some(Request::RequestHeaders(_)) => {
                vec![request_headers(&[("x-new", HOSTILE), (HOSTILE, "1")])]
            }
            _ => vec![response_headers(&[("x-back", HOSTILE)])],
        }
    });
    send(&inspector, config(""), processor, request).await;
    let url = page(&inspector).await;
    // The list of a browser without scripts.
    let address = url
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .parse()
        .unwrap();
    let plain = ask(address, "GET /", &[]).await;
    assert!(
        !plain.contains("<img") && !plain.contains("<script>"),
        "{plain}"
    );

    let Some(mut browser) = Browser::open().await else {
        return;
    };
    browser.go(&url).await;
    browser.wait("document.querySelector('.row')").await;
    browser
        .value("document.querySelector('.row').click()")
        .await;
    browser.wait("document.querySelector('#detail svg')").await;
    browser
        .value("document.querySelectorAll('#detail details').forEach((d) => { d.open = true; })")
        .await;
    browser
        .wait("document.querySelector('#detail details pre')")
        .await;
    for format in ["curl", "fake-proxy", "scenario", "json"] {
        let press = format!("document.querySelector('[data-format={format}]').click()");
        browser.value(&press).await;
    }
    browser
        .wait("document.querySelector('#detail .tools + pre').textContent")
        .await;
    let seen = browser
        .value(
            "({title: document.title, markup: document.querySelectorAll('main img, main script').length, \
              text: document.querySelector('#detail').textContent})",
        )
        .await;
    assert_eq!(seen["title"], "Exchanges");
    assert_eq!(seen["markup"], 0);
    assert!(seen["text"].as_str().unwrap().contains(HOSTILE));
}

#[tokio::test]
async fn a_person_finds_and_takes_away() {
    let inspector = inspector(Settings::default());
    let url = page(&inspector).await;
    let Some(mut browser) = Browser::open().await else {
        return;
    };
    browser.go(&url).await;
    // What comes while the page is open.
    for n in 0..30 {
        send(
            &inspector,
            config(""),
            obliging(),
            get(&format!("/fine/{n}")),
        )
        .await;
    }
    let processor = Scripted::new(|_| vec![response_headers(&[])]);
    send(&inspector, config(""), processor, get("/broken")).await;
    browser
        .wait("document.querySelector('.row')?.textContent.includes('/broken')")
        .await;
    assert_eq!(
        browser
            .value("document.querySelectorAll('.row.problem').length")
            .await,
        1
    );

    // The filter is kept in the address.
    let filter = "const f = document.getElementById('filter'); f.value = 'fine/7'; \
                  f.dispatchEvent(new Event('input'))";
    browser.value(&format!("{{ {filter} }}")).await;
    browser
        .wait("document.querySelectorAll('.row').length === 1")
        .await;
    assert_eq!(browser.value("location.search").await, "?filter=fine%2F7");
    browser.value("{ document.getElementById('filter').value = ''; document.getElementById('problems').click() }").await;
    browser
        .wait("document.querySelector('.row')?.textContent.includes('/broken')")
        .await;

    // The keys, and the cause in words.
    browser.value("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowDown', bubbles: true}))").await;
    browser
        .wait("document.querySelector('#detail .verdict')")
        .await;
    let verdict = browser
        .value("document.querySelector('#detail .verdict').textContent")
        .await;
    assert!(
        verdict
            .as_str()
            .unwrap()
            .contains("the reply fits no message that waits for one"),
        "{verdict}"
    );
    let lanes = browser
        .value("document.querySelectorAll('#detail svg .life').length")
        .await;
    assert_eq!(lanes, 4);
    let live = browser
        .value("document.querySelector('#processors').textContent")
        .await;
    assert!(live.as_str().unwrap().contains("authz"), "{live}");

    browser
        .value("document.querySelector('[data-format=curl]').click()")
        .await;
    browser
        .wait("document.querySelector('#detail pre').textContent.startsWith('curl -i -X')")
        .await;

    browser.picture("inspector.png").await;

    // A narrow window shows one of the two, and nothing to the side of it.
    let narrow = json!({"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": false});
    browser
        .call("Emulation.setDeviceMetricsOverride", narrow)
        .await;
    browser
        .wait("document.documentElement.scrollWidth <= 400")
        .await;
    browser
        .wait("getComputedStyle(document.getElementById('list')).display === 'none'")
        .await;
}

#[tokio::test]
async fn ten_thousand_exchanges() {
    let mut settings = Settings::default();
    settings.exchanges = 10_000;
    settings.bytes = 256 * 1024 * 1024;
    let inspector = inspector(settings);
    let Some(mut browser) = Browser::open().await else {
        return;
    };
    for n in 0..10_000 {
        send(&inspector, config(""), obliging(), get(&format!("/{n}"))).await;
    }
    let url = page(&inspector).await;
    browser.go(&url).await;
    browser
        .wait("document.querySelector('.row')?.textContent.includes('/9999')")
        .await;
    let rows = browser
        .value("document.querySelectorAll('.row').length")
        .await;
    assert!(
        rows.as_u64().unwrap() < 100,
        "only what can be seen is there: {rows}"
    );
    browser
        .value("{ const l = document.getElementById('list'); l.scrollTop = l.scrollHeight; }")
        .await;
    browser
        .wait(
            "[...document.querySelectorAll('.row')].at(-1).textContent.includes('shop.test/0') \
        || [...document.querySelectorAll('.row')].at(-1).textContent.includes('/0')",
        )
        .await;
}
