from rtlaunch.command import main

main()
