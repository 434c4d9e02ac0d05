use extproc_sdk::Processor;
async fn exchange_2(_: impl Processor) -> Result<(), Box<dyn std::error::Error>> { Ok(()) }
