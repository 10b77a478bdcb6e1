from world.cli import main

main()
