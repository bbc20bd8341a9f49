from keyfront.cli.main import main

main()
