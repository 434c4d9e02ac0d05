//! The page in headless Chromium, over the DevTools protocol. Without a browser the tests say so and are passed over.

#[allow(dead_code, reason = "shared by several tests")]
mod common;

#[path = "common/browser.rs"]
mod browser;

use std::sync::Arc;

use extproc_client::http::Request;
use gateway_inspector::{Inspector, Settings};
use serde_json::json;

use self::{browser::Browser, common::*};

/// Markup that runs a script, in each place where a text may end up.
const HOSTILE: &str =
    "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>";

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
        .wait("document.querySelector('#detail pre').textContent.includes('curl -i -X')")
        .await;

    for scheme in ["light", "dark"] {
        browser
            .picture(&format!("inspector-{scheme}.png"), scheme)
            .await;
    }

    // A narrow window shows one of the two, and nothing to the side of it, also inside of what scrolls.
    let narrow = json!({"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": false});
    browser
        .call("Emulation.setDeviceMetricsOverride", narrow)
        .await;
    browser
        .wait("document.documentElement.scrollWidth <= 400")
        .await;
    browser
        .wait("document.querySelector('#detail').scrollWidth <= document.querySelector('#detail').clientWidth")
        .await;
    browser
        .wait("getComputedStyle(document.getElementById('list')).display === 'none'")
        .await;
}

#[tokio::test]
async fn ten_thousand_exchanges() {
    let mut settings = Settings::default();
    settings.exchanges = 10_000;
    settings.bytes = 512 * 1024 * 1024;
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
    // The page is left open: the oldest go from it as well.
    for n in 10_000..10_100 {
        send(&inspector, config(""), obliging(), get(&format!("/{n}"))).await;
    }
    browser
        .value("{ document.getElementById('list').scrollTop = 0; }")
        .await;
    browser
        .wait("document.querySelector('.row')?.textContent.includes('/10099')")
        .await;
    let height = browser
        .value("document.querySelector('#list .window').style.height")
        .await;
    assert_eq!(height, "440000px");
}

#[tokio::test]
async fn one_page_too_many_says_so() {
    let inspector = inspector(Settings::default());
    let url = page(&inspector).await;
    let Some(mut browser) = Browser::open().await else {
        return;
    };
    let address = url
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .parse()
        .unwrap();
    send(&inspector, config(""), obliging(), get("/there")).await;
    let mut pages = Vec::new();
    for _ in 0..16 {
        let mut socket = asked(address, "GET /exchanges/stream", &[]).await;
        tokio::io::AsyncReadExt::read_u8(&mut socket).await.unwrap();
        pages.push(socket);
    }
    browser.go(&url).await;
    browser
        .wait("document.getElementById('state').textContent.includes('too many pages are open')")
        .await;
    // What is there is shown all the same.
    browser
        .wait("document.querySelector('.row')?.textContent.includes('/there')")
        .await;
}

/// Everything that a person without a mouse does. The focus stays where it is while exchanges come in.
#[tokio::test]
async fn keys_alone() {
    let inspector = inspector(Settings::default());
    let url = page(&inspector).await;
    let Some(mut browser) = Browser::open().await else {
        return;
    };
    for n in 0..3 {
        send(&inspector, config(""), obliging(), get(&format!("/{n}"))).await;
    }
    browser.go(&url).await;
    browser
        .wait("document.querySelectorAll('.row').length === 3")
        .await;
    let focus = "document.activeElement.id || document.activeElement.dataset.id";
    browser.press("ArrowDown", 40, "").await;
    browser.wait("document.querySelector('#detail h2')").await;
    browser.press("ArrowDown", 40, "").await;
    browser
        .wait("document.querySelector('#detail h2')?.textContent.endsWith('/1')")
        .await;
    // Into the exchange, where arrows scroll, and back.
    browser.press("Enter", 13, "\r").await;
    assert_eq!(browser.value(focus).await, "detail");
    let hash = browser.value("location.hash").await;
    browser.press("ArrowDown", 40, "").await;
    browser
        .wait("document.getElementById('detail').scrollTop > 0")
        .await;
    assert_eq!(browser.value("location.hash").await, hash);
    browser.press("Tab", 9, "").await;
    browser
        .wait("document.activeElement.textContent === 'Close'")
        .await;
    browser.press("Escape", 27, "").await;
    browser.wait("location.hash === ''").await;
    assert_eq!(browser.value(focus).await, "list");
    browser.press("/", 191, "/").await;
    browser.wait("document.activeElement.id === 'filter'").await;
    browser.press("1", 49, "1").await;
    browser
        .wait("location.search === '?filter=1' && document.querySelectorAll('.row').length === 1")
        .await;
    browser
        .value("{ const f = document.getElementById('filter'); f.value = ''; f.dispatchEvent(new Event('input')); }")
        .await;
    browser
        .wait("document.querySelectorAll('.row').length === 3")
        .await;

    browser
        .value("document.querySelectorAll('.row')[1].focus()")
        .await;
    let focused = browser.value(focus).await;
    send(&inspector, config(""), obliging(), get("/more")).await;
    browser
        .wait("document.querySelectorAll('.row').length === 4")
        .await;
    assert_eq!(browser.value(focus).await, focused);
}

/// The numbers in the head of the page are those of now, without the timer that asks for them when nothing comes.
#[tokio::test]
async fn numbers_follow() {
    let mut settings = Settings::default();
    settings.exchanges = 2;
    let inspector = inspector(settings);
    let url = page(&inspector).await;
    let Some(mut browser) = Browser::open().await else {
        return;
    };
    let script = json!({"source": "window.setInterval = () => 0;"});
    browser
        .call("Page.addScriptToEvaluateOnNewDocument", script)
        .await;
    browser.go(&url).await;
    browser
        .wait("document.getElementById('state').textContent === '0 kept, 0 dropped'")
        .await;
    for n in 0..5 {
        send(&inspector, config(""), obliging(), get(&format!("/{n}"))).await;
    }
    browser
        .wait("document.getElementById('state').textContent === '2 kept, 3 dropped'")
        .await;
}

/// The forms are copied, and a replay shows both transcripts.
#[tokio::test]
async fn copies_and_replays() {
    let inspector = inspector(Settings::default());
    // Bound and not listened on: nobody else gets the port, and connections are refused.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = nobody.local_addr().unwrap();
    let url = page(&inspector).await;
    let Some(mut browser) = Browser::open().await else {
        return;
    };
    send(&inspector, config(""), obliging(), get("/replayed")).await;
    browser.go(&url).await;
    browser
        .value("document.querySelector('.row').click()")
        .await;
    browser
        .wait(
            "document.querySelector('#detail')?.textContent.includes('--inspect-replay HOST:PORT')",
        )
        .await;
    assert_eq!(
        browser
            .value("document.querySelector('#detail form')")
            .await,
        serde_json::Value::Null,
        "there is nowhere to replay to"
    );
    inspector.set_processors([gone.to_string()]);
    browser.value("location.reload()").await;
    browser.wait("document.querySelector('#detail form')").await;
    let options = "[...document.querySelectorAll('#detail option')].map((option) => option.value)";
    assert_eq!(browser.value(options).await, json!([gone.to_string()]));
    browser
        .value("document.querySelector('#detail form button').click()")
        .await;
    browser
        .wait(
            "document.querySelector('#detail form')?.textContent.includes('replayed: status 500')",
        )
        .await;
    let text = browser
        .value("document.querySelector('#detail form').textContent")
        .await;
    let text = text.as_str().unwrap();
    assert!(
        text.contains("recorded: status 200") && text.contains("Connection refused"),
        "{text}"
    );

    let origin = url.trim_end_matches('/');
    let may =
        json!({"origin": origin, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]});
    browser.call("Browser.grantPermissions", may).await;
    browser.call("Page.bringToFront", json!({})).await;
    browser
        .value("document.querySelector('[data-format=curl]').click()")
        .await;
    browser
        .wait("document.querySelector('#detail .tools output').textContent === 'copied'")
        .await;
    let copied = browser.value("navigator.clipboard.readText()").await;
    assert!(
        copied.as_str().unwrap().contains("curl -i -X 'GET'"),
        "{copied}"
    );
}
