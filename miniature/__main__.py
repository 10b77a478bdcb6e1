from miniature.cli import main

main()
