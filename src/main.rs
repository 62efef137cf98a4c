//! temporary
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let path = std::env::args().nth(3).unwrap_or_default();
    let config = redis_duplex::config::Config::load(path.as_ref())?;
    let stop = tokio_util::sync::CancellationToken::new();
    let s2 = stop.clone();
    let h = redis_duplex::site::run(config, stop);
    tokio::pin!(h);
    tokio::select! { r = &mut h => return r, _ = tokio::signal::ctrl_c() => s2.cancel() }
    h.await
}
